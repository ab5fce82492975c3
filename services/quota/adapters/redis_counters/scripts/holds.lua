-- Reads what is held, and which reservations are open until when, in one look.
--
-- KEYS  1 held   2 expiries
-- ARGV  1 how many reservations to name at most   2 how many counters to read at most, of more none
-- Answers {counters (field, quantity, ..), the epoch among them, reservations (id, end, ..)}.

local counters = {}
if redis.call('HLEN', KEYS[1]) - 1 <= tonumber(ARGV[2]) then
  counters = redis.call('HGETALL', KEYS[1])
end
-- The epoch's own member comes last, see reset.lua.
local ends = redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')
if #ends > 0 and string.sub(ends[#ends - 1], 1, 1) == '|' then
  ends[#ends], ends[#ends - 1] = nil, nil
end
return {counters, ends}
