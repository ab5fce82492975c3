-- Names the open reservations whose time has passed, oldest first.
--
-- KEYS  1 expiries
-- ARGV  1 how many at most
-- Answers their ids.

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
