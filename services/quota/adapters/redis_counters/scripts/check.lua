-- Decides a check and holds what it allows, all or nothing. The twin of `decide` in domain/decisions.py. With no limits
-- and without a reservation it reads counters.
--
-- KEYS  1 entitlement   2 state   3 used (of the period sent)   4 held   5 expiries   6 reservation (to reserve only)
-- ARGV  1 entitlement version, 2 period start, 3 period end (microseconds), 4 commit id of the organization's own limits:
--         what the caller decides by
--       5 '1': billing says that this period is current, whatever the clock says; else '0'
--       6 '1': the subscription is in good standing; else '0', and everything is denied
--       7 how long to hold, in microseconds; '0': hold nothing
--       8 reservation id   9 digest of the check's content   10 terms (opaque, answered when the check is repeated)
--      11 when keys of this organization may be dropped, in Unix milliseconds
--      12 number of counters, then for each: field, quantity ('' for a gate)
--         number of levels that must be tracked, then each: level|meter
--         number of limits, then for each: which counter (from 1), 'PERIOD' or 'CONCURRENCY', limit, hard limit ('' both:
--         unlimited)
-- Answers {'MISSING'} no counters for this period or level; {'OUTDATED'} other terms are kept, or the period is over;
--      {'REUSED'} the reservation id names another check; else
--      {'DECIDED' or 'REPEATED', outcome, numbers, terms, expiry of the reservation or '', now, next expiry or ''};
--      numbers: now, applied sequence, then used and held of each counter before this check, joined by commas.
--
-- Why so: time is Redis' own, so that no two callers disagree about a period's end. Every number is an integer of at
-- most 2^53 - 1, exact in a double; a comparison subtracts (hard - used - held), because a sum could pass 2^53. Numbers
-- leave as '%.0f', since Lua's own tostring would write 1e+15. Everything is read and decided before the first write.

local MAX = 9007199254740991

local function whole(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reserve_us = tonumber(ARGV[7])
local next_expiry = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
-- The epoch's own member, see reset.lua: nothing is open.
if next_expiry == 'inf' then
  next_expiry = nil
end

local state = redis.call('HMGET', KEYS[2], 'epoch', 'sequence', 'period_start_us', 'period_end_us', 'tracked')
local epoch, sequence = state[1], state[2]

-- A retry is answered first: what was held stays held, whatever became of plan, period and standing.
if epoch and reserve_us > 0 then
  local first = redis.call('HMGET', KEYS[6], 'epoch', 'digest', 'numbers', 'terms', 'expire_us')
  if first[1] == epoch then
    if first[2] ~= ARGV[9] then
      return {'REUSED'}
    end
    return {'REPEATED', '', first[3], first[4], first[5], whole(now), next_expiry or ''}
  end
end

local kept = redis.call('HMGET', KEYS[1], 'version', 'period_start_us', 'period_end_us', 'limits_commit_id')
for index = 1, 4 do
  if kept[index] ~= ARGV[index] then
    return {'OUTDATED'}
  end
end
if ARGV[5] == '0' and now >= tonumber(ARGV[3]) then
  return {'OUTDATED'}
end
if not epoch or state[3] ~= ARGV[2] or state[4] ~= ARGV[3] then
  return {'MISSING'}
end

local counters_count = tonumber(ARGV[12])
local fields, quantities = {'epoch'}, {}
local at = 13
for index = 1, counters_count do
  fields[index + 1] = ARGV[at]
  quantities[index] = ARGV[at + 1]
  at = at + 2
end
local tracked_count = tonumber(ARGV[at])
at = at + 1
for _ = 1, tracked_count do
  -- One to a line, see reset.lua.
  if not string.find(state[5] or '', '\n' .. ARGV[at] .. '\n', 1, true) then
    return {'MISSING'}
  end
  at = at + 1
end
local used = redis.call('HMGET', KEYS[3], unpack(fields))
local held = redis.call('HMGET', KEYS[4], unpack(fields))
-- A part that is gone (evicted, deleted) must not read as zero.
if used[1] ~= epoch or held[1] ~= epoch or not redis.call('ZSCORE', KEYS[5], '|' .. epoch) then
  return {'MISSING'}
end

local numbers = {whole(now), sequence}
for index = 1, counters_count do
  used[index] = used[index + 1] or '0'
  held[index] = held[index + 1] or '0'
  numbers[#numbers + 1] = used[index]
  numbers[#numbers + 1] = held[index]
end
numbers = table.concat(numbers, ',')

local outcome = 'ALLOWED'
if ARGV[6] == '0' then
  outcome = 'DENIED'
end
local limits_count = tonumber(ARGV[at])
at = at + 1
for _ = 1, limits_count do
  local index, kind, limit, hard = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if limit ~= '' then
    local needed = 1
    if quantities[index] ~= '' then
      needed = tonumber(quantities[index])
    end
    local counted = 0
    if kind == 'PERIOD' then
      counted = tonumber(used[index])
    end
    if needed > tonumber(hard) - counted - tonumber(held[index]) then
      outcome = 'DENIED'
    elseif outcome == 'ALLOWED' and needed > tonumber(limit) - counted - tonumber(held[index]) then
      outcome = 'ALLOWED_IN_GRACE'
    end
  end
end

if outcome == 'DENIED' or reserve_us == 0 then
  return {'DECIDED', outcome, numbers, ARGV[10], '', whole(now), next_expiry or ''}
end

local expire_us = whole(now + reserve_us)
local record = {'epoch', epoch, 'digest', ARGV[9], 'numbers', numbers, 'terms', ARGV[10], 'expire_us', expire_us}
local holds = {}
for index = 1, counters_count do
  local quantity = tonumber(quantities[index]) or 0
  local hold = math.min(quantity, MAX - tonumber(held[index]))
  if quantity > 0 then
    record[#record + 1] = 'held|' .. fields[index + 1]
    record[#record + 1] = whole(hold)
    holds[#holds + 1] = {fields[index + 1], whole(hold)}
  end
end

-- First the command that a full server refuses: it asks only before a script's first write.
redis.call('ZADD', KEYS[5], expire_us, ARGV[8])
redis.call('PEXPIREAT', KEYS[5], ARGV[11])
redis.call('DEL', KEYS[6])
redis.call('HSET', KEYS[6], unpack(record))
redis.call('PEXPIREAT', KEYS[6], ARGV[11])
for _, each in ipairs(holds) do
  redis.call('HINCRBY', KEYS[4], each[1], each[2])
end
redis.call('PEXPIREAT', KEYS[4], ARGV[11])
if not next_expiry or tonumber(expire_us) < tonumber(next_expiry) then
  next_expiry = expire_us
end
return {'DECIDED', outcome, numbers, ARGV[10], expire_us, whole(now), next_expiry}
