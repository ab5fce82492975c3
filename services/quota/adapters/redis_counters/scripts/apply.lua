-- Counts a page of the usage ledger: what it used, what it draws from reservations, and the position after it.
--
-- KEYS  1 state   2 used (of the period sent)   3 held   4 expiries   5.. one reservation each
-- ARGV  1 epoch, 2 sequence, 3 commit id, 4 period start, 5 what is tracked: what the state must be
--       6 sequence, 7 commit id: the position after the page   8 how long an ended reservation is remembered, in
--         milliseconds   9 number of counters used, then for each: field, quantity (negative: taken back)
--       then for each reservation in the order of its key: id, '1' when it ends here (else '0'), number of meters
--       drawn, then for each: meter, quantity; it is drawn in every scope of the reservation
-- Answers {'MOVED'} the state is another; {'MISSING'} a part of it is gone; else {'APPLIED', reservations that usage went
--       beyond, reservations that usage came after the end of}.
--
-- Why so: position and effect change together or not at all, so a page that is applied twice, or by two followers at
-- once, counts once. Numbers are integers up to 2^53 - 1, exact in a double; a counter stays between 0 and that maximum.

local MAX = 9007199254740991

local function whole(number)
  return string.format('%.0f', number)
end

local state = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'commit_id', 'period_start_us', 'tracked')
state[5] = state[5] or '\n' -- written before levels were tracked
for index = 1, 5 do
  if state[index] ~= ARGV[index] then
    return {'MOVED'}
  end
end
local epoch = state[1]
if redis.call('HGET', KEYS[2], 'epoch') ~= epoch or redis.call('HGET', KEYS[3], 'epoch') ~= epoch
    or not redis.call('ZSCORE', KEYS[4], '|' .. epoch) then
  return {'MISSING'}
end

local increments = {}
local at = 10
for _ = 1, tonumber(ARGV[9]) do
  local used = tonumber(redis.call('HGET', KEYS[2], ARGV[at]) or '0')
  -- 0 - used and not -used, which could be the -0 that HINCRBY refuses.
  increments[#increments + 1] = {ARGV[at], whole(math.max(0 - used, math.min(tonumber(ARGV[at + 1]), MAX - used)))}
  at = at + 2
end

local draws, ends, beyond, after = {}, {}, 0, 0
for key = 5, #KEYS do
  local id, final, count = ARGV[at], ARGV[at + 1] == '1', tonumber(ARGV[at + 2])
  at = at + 3
  local record = {}
  local flat = redis.call('HGETALL', KEYS[key])
  for index = 1, #flat, 2 do
    record[flat[index]] = flat[index + 1]
  end
  local open = record.epoch == epoch and not record.ended
  local overrun = not open and count > 0
  local quantities = {}
  for _ = 1, count do
    quantities[ARGV[at]] = tonumber(ARGV[at + 1])
    at = at + 2
  end
  for name, remaining in pairs(record) do
    -- held|level|id|meter: neither a level nor an id contains a bar.
    local field, meter = string.match(name, '^held|([^|]*|[^|]*|(.*))$')
    local quantity = field and quantities[meter]
    if open and quantity then
      remaining = tonumber(remaining)
      local drawn = math.min(remaining, quantity)
      overrun = overrun or quantity > drawn
      if drawn > 0 then
        draws[#draws + 1] = {KEYS[key], field, whole(-drawn)}
      end
      record[name] = whole(remaining - drawn)
    end
  end
  if overrun and open then
    beyond = beyond + 1
  elseif overrun then
    after = after + 1
  end
  if open and final then
    ends[#ends + 1] = {KEYS[key], id}
    for name, remaining in pairs(record) do
      if string.sub(name, 1, 5) == 'held|' and remaining ~= '0' then
        draws[#draws + 1] = {KEYS[key], string.sub(name, 6), whole(-tonumber(remaining))}
      end
    end
  end
end

for _, each in ipairs(increments) do
  redis.call('HINCRBY', KEYS[2], each[1], each[2])
end
for _, each in ipairs(draws) do
  redis.call('HINCRBY', each[1], 'held|' .. each[2], each[3])
  -- A task's counter that nothing is held under any more must not stay for ever.
  if redis.call('HINCRBY', KEYS[3], each[2], each[3]) == 0 then
    redis.call('HDEL', KEYS[3], each[2])
  end
end
for _, each in ipairs(ends) do
  redis.call('HSET', each[1], 'ended', '1')
  redis.call('PEXPIRE', each[1], ARGV[8])
  redis.call('ZREM', KEYS[4], each[2])
end
redis.call('HSET', KEYS[1], 'sequence', ARGV[6], 'commit_id', ARGV[7])
return {'APPLIED', beyond, after}
