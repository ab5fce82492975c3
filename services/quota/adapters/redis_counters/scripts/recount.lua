-- Reads an organization's counters, and adds up what its open reservations hold, in one look.
--
-- KEYS  1 state   2 used (of the period sent)   3 held   4 expiries   5.. one reservation each
-- ARGV  1 period start: what the state's must be   2 how many counters of a kind to answer at most   3 '1': set what is
--         held to what the reservations hold, if that is not the same; else '0'
--       4 how many counters of reservations to add up at most   5.. the reservations' ids, in the order of their keys;
--         none of them: nothing of holds is asked
-- Answers {'MOVED'} another period or nothing is kept; {'MISSING'} a part of it is gone; else {'SUMMED', 'OTHERS' when
--       other reservations are open than those sent, or 'MANY' when they hold under too many counters; epoch, sequence, commit id, tracked, number of counters used,
--       used (field, quantity, ..), number of counters held, held (as used), held by the reservations (the same)}. Of more
--       counters used than may be answered, some at random: to read them all would keep everybody else waiting. OTHERS,
--       MANY: nothing of holds.
--
-- Why so: counters and position change together, so only one look can be compared with the ledger as of that position; and
-- a hold and its reservation change together, so only one look can be compared with itself.

local state = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'commit_id', 'tracked', 'period_start_us')
local epoch = state[1]
if not epoch or state[5] ~= ARGV[1] then
  return {'MOVED'}
end
if redis.call('HGET', KEYS[2], 'epoch') ~= epoch or redis.call('HGET', KEYS[3], 'epoch') ~= epoch
    or not redis.call('ZSCORE', KEYS[4], '|' .. epoch) then
  return {'MISSING'}
end
-- One of them is the epoch's own member, see reset.lua.
local summed = redis.call('ZCARD', KEYS[4]) - 1 == #KEYS - 4
for key = 5, #KEYS do
  summed = summed and redis.call('ZSCORE', KEYS[4], ARGV[key])
end

local held_count = redis.call('HLEN', KEYS[3]) - 1
local sums, counters_left = {}, tonumber(ARGV[4]) - (summed and held_count or 0)
for key = 5, summed and counters_left >= 0 and #KEYS or 4 do
  local record = record_of(KEYS[key], epoch)
  if record.scopes and not record.ended then
    for name, remaining in pairs(record) do
      if string.sub(name, 1, 5) == 'held|' and remaining ~= '0' then
        local prefixes = cmsgpack.unpack(record.scopes)
        counters_left = counters_left - #prefixes
        for _, prefix in ipairs(prefixes) do
          local field = prefix .. string.sub(name, 6)
          sums[field] = (sums[field] or 0) + tonumber(remaining)
        end
      end
    end
  end
  if counters_left < 0 then
    break
  end
end
summed = summed and counters_left >= 0

local function without_epoch(flat)
  local counters = {}
  for index = 1, #flat, 2 do
    if flat[index] ~= 'epoch' then
      counters[#counters + 1] = flat[index]
      counters[#counters + 1] = flat[index + 1]
    end
  end
  return counters
end

local used_count = redis.call('HLEN', KEYS[2]) - 1
local used
if used_count > tonumber(ARGV[2]) then
  used = redis.call('HRANDFIELD', KEYS[2], ARGV[2], 'WITHVALUES')
else
  used = redis.call('HGETALL', KEYS[2])
end
local held = summed and without_epoch(redis.call('HGETALL', KEYS[3])) or {}
local expected = {}
for field, quantity in pairs(summed and sums or {}) do
  expected[#expected + 1] = field
  expected[#expected + 1] = whole(quantity)
end

if summed and ARGV[3] == '1' then
  for index = 1, #held, 2 do
    if not sums[held[index]] then
      redis.call('HDEL', KEYS[3], held[index])
    end
  end
  for field, quantity in pairs(sums) do
    redis.call('HSET', KEYS[3], field, whole(quantity))
  end
end
return {summed and 'SUMMED' or counters_left < 0 and 'MANY' or 'OTHERS', epoch, state[2], state[3], state[4] or '\n', used_count, without_epoch(used),
  held_count, held, expected}
