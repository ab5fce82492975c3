-- Sets what was used in a period, as of a position of the ledger: after a loss, for a new period, after a rewound log.
--
-- KEYS  1 state   2 entitlement   3 used (of the period sent)   4 held   5 expiries   6 what used is set to: counters that
--         were written there before, some at a time
-- ARGV  1 epoch ('': no state), 2 sequence, 3 commit id, 4 period start, 5 what is tracked: what the state must be still
--       6 entitlement version, 7 period start, 8 period end: what the entitlement must be, and the period set
--       9 epoch to begin if what was held is lost   10 sequence, 11 commit id: the position set
--      12 what is tracked from now on: level|meter, each with a newline before and after it, or one newline
--      13 when keys of this organization may be dropped, in Unix milliseconds
--      14 '1': also when the counters are whole and of this position and period, with the same tracked; else '0'
--      15 how many counters there are
-- Answers 1, or 0 when the state or the entitlement is another, a counter is not there, or there is nothing to do: then
--       nothing changed.
--
-- Why so: there may be tens of thousands of counters, and a script keeps everybody else waiting; so they come one page
-- after the other under a key that nobody looks at, and take their place all at once. Compare-and-set makes it happen once while many processes try. What is held survives a reset, since only Redis
-- knows it; if it is gone, the new epoch makes every surviving reservation void, so that none frees what is not held.
-- The expiries are part of it: without them no hold would ever end by time. An empty sorted set is no key, so the epoch
-- is a member of it, that never comes due and that no reservation can be called.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'commit_id', 'period_start_us', 'tracked')
state[5] = state[5] or '\n' -- written before levels were tracked
if state[1] then
  for index = 1, 5 do
    if state[index] ~= ARGV[index] then
      return 0
    end
  end
elseif ARGV[1] ~= '' then
  return 0
end
if redis.call('HLEN', KEYS[6]) ~= tonumber(ARGV[15]) then
  return 0
end
local kept = redis.call('HMGET', KEYS[2], 'version', 'period_start_us', 'period_end_us')
for index = 1, 3 do
  if kept[index] ~= ARGV[index + 5] then
    return 0
  end
end
local epoch = state[1]
local holds_lost = not epoch or redis.call('HGET', KEYS[4], 'epoch') ~= epoch
  or not redis.call('ZSCORE', KEYS[5], '|' .. epoch)
-- Of many who find that something is missing, the first sets it.
if ARGV[14] == '0' and not holds_lost and redis.call('HGET', KEYS[3], 'epoch') == epoch and state[2] == ARGV[10]
    and state[3] == ARGV[11] and state[4] == ARGV[7] and state[5] == ARGV[12] then
  return 0
end
if holds_lost then
  epoch = ARGV[9]
end

if holds_lost then
  redis.call('UNLINK', KEYS[4], KEYS[5])
  redis.call('HSET', KEYS[4], 'epoch', epoch)
  redis.call('ZADD', KEYS[5], '+inf', '|' .. epoch)
end
-- Freed beside the commands that come next.
redis.call('UNLINK', KEYS[3])
if ARGV[15] ~= '0' then
  redis.call('RENAME', KEYS[6], KEYS[3])
end
redis.call('HSET', KEYS[3], 'epoch', epoch)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'sequence', ARGV[10], 'commit_id', ARGV[11],
  'period_start_us', ARGV[7], 'period_end_us', ARGV[8], 'tracked', ARGV[12])
for _, key in ipairs({KEYS[1], KEYS[3], KEYS[4], KEYS[5]}) do
  redis.call('PEXPIREAT', key, ARGV[13])
end
return 1
