-- Makes a reservation due now. It goes the way of expiry from here on: free.lua ends it.
--
-- KEYS  1 state   2 expiries   3 reservation
-- ARGV  1 reservation id   2 how long an ended reservation is remembered, in milliseconds
-- Answers 'UNKNOWN' there is no such reservation; 'ENDED' it holds nothing; 'DUE' it still holds something.
--
-- Why so: usage that was recorded before the release but is not applied yet would be counted by nobody if its hold were
-- freed here. What holds nothing has nothing to wait for.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local record = hash_of(KEYS[3])
-- Without the list of ends nothing is held any more, see reset.lua, and a new one would stay for ever.
if not epoch or record.epoch ~= epoch or record.tombstone or not record.scopes
    or not redis.call('ZSCORE', KEYS[2], '|' .. epoch) then
  return 'UNKNOWN'
end
if record.ended then
  return 'ENDED'
end

local holds = false
for name, remaining in pairs(record) do
  holds = holds or (string.sub(name, 1, 5) == 'held|' and remaining ~= '0')
end
if not holds then
  redis.call('HSET', KEYS[3], 'ended', 'released')
  redis.call('PEXPIRE', KEYS[3], ARGV[2])
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 'ENDED'
end
if tonumber(record.expire_us) > now then
  local due = whole(now)
  redis.call('ZADD', KEYS[2], due, ARGV[1])
  redis.call('HSET', KEYS[3], 'expire_us', due)
end
-- Who releases what was committed says that no more usage comes: nothing is missing when it goes.
redis.call('HDEL', KEYS[3], 'settling')
redis.call('HSET', KEYS[3], 'releasing', '1')
return 'DUE'
