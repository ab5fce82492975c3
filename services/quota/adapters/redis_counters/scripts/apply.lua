-- Counts a page of the usage ledger: what it used, what it draws from reservations, and the position after it.
--
-- KEYS  1 state   2 used (of the period sent)   3 held   4 expiries   5 tombstones   6.. one reservation each
-- ARGV  1 epoch, 2 sequence, 3 commit id, 4 period start, 5 what is tracked: what the state must be
--       6 sequence, 7 commit id: the position after the page   8 how long an ended reservation is remembered, in
--         milliseconds   9 how many tombstones are kept at most   10 number of counters used, then for each: field,
--         quantity (negative: taken back)
--       then for each reservation in the order of its key: id, '1' when it ends here (else '0'), number of meters
--       drawn, then for each: meter, quantity
-- Answers {'MOVED'} the state is another; {'MISSING'} a part of it is gone; else {'APPLIED', reservations that usage went
--       beyond, reservations that usage came after the end of}.
--
-- Why so: position and effect change together or not at all, so a page that is applied twice, or by two followers at
-- once, counts once. A hold is drawn under the scopes of its reservation, whatever those of the event. Usage of a
-- reservation that is not known leaves a tombstone: a grant that was given without the store may be registered later, and
-- must not hold what is counted already. Anybody may name anything, so only so many are kept. Numbers are integers up to 2^53 - 1, exact in a double; a counter stays between 0
-- and that maximum.

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
local at = 11
for _ = 1, tonumber(ARGV[10]) do
  local used = tonumber(redis.call('HGET', KEYS[2], ARGV[at]) or '0')
  -- 0 - used and not -used, which could be the -0 that HINCRBY refuses.
  increments[#increments + 1] = {ARGV[at], whole(math.max(0 - used, math.min(tonumber(ARGV[at + 1]), MAX - used)))}
  at = at + 2
end

-- What a record loses, and what is held under its scopes with it.
local losses, notes, ends, tombstones, beyond, after = {}, {}, {}, {}, 0, 0
local now_ms, room
for key = 6, #KEYS do
  local id, final, count = ARGV[at], ARGV[at + 1] == '1', tonumber(ARGV[at + 2])
  at = at + 3
  local record = record_of(KEYS[key], epoch)
  local known = record.epoch and not record.tombstone
  local open = known and not record.ended
  local overrun, held = not open and count > 0, 0
  -- One that ended by time may be made anew by who still uses it.
  local remembered = open or record.ended == 'time'
  if not known then
    if not room then
      local time = redis.call('TIME')
      now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
      room = tonumber(ARGV[9]) - redis.call('ZCOUNT', KEYS[5], whole(now_ms - tonumber(ARGV[8])), '+inf')
    end
    local is_new = not record.epoch
    remembered = not is_new or room > 0
    if remembered then
      tombstones[#tombstones + 1] = {KEYS[key], id, final, is_new}
      room = room - (is_new and 1 or 0)
    end
  end
  for _ = 1, count do
    local meter, quantity = ARGV[at], tonumber(ARGV[at + 1])
    at = at + 2
    local remaining = tonumber(record['held|' .. meter] or '0')
    if open and record['granted|' .. meter] then
      local drawn = math.min(remaining, quantity)
      overrun = overrun or quantity > drawn
      if drawn > 0 then
        losses[#losses + 1] = {KEYS[key], record.scopes, meter, drawn}
        record['held|' .. meter] = whole(remaining - drawn)
      end
    end
    if remembered then
      local before = tonumber(record['drawn|' .. meter] or '0')
      notes[#notes + 1] = {KEYS[key], 'drawn|' .. meter, whole(math.min(before + quantity, MAX))}
    end
  end
  if overrun and open then
    beyond = beyond + 1
  elseif overrun then
    after = after + 1
  end
  if open then
    for name, remaining in pairs(record) do
      if string.sub(name, 1, 5) == 'held|' and remaining ~= '0' then
        if final then
          losses[#losses + 1] = {KEYS[key], record.scopes, string.sub(name, 6), tonumber(remaining)}
        else
          held = held + tonumber(remaining)
        end
      end
    end
    if final or (record.settling and held == 0) then
      ends[#ends + 1] = {KEYS[key], id, final and 'final' or 'settled'}
    end
  end
end

for _, each in ipairs(increments) do
  redis.call('HINCRBY', KEYS[2], each[1], each[2])
end
for _, each in ipairs(tombstones) do
  if each[4] then
    redis.call('DEL', each[1])
  end
  redis.call('ZADD', KEYS[5], whole(now_ms), each[2])
  redis.call('HSET', each[1], 'epoch', epoch, 'tombstone', '1')
  if each[3] then
    redis.call('HSET', each[1], 'final', '1')
  end
  redis.call('PEXPIRE', each[1], ARGV[8])
end
if #tombstones > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', whole(now_ms - tonumber(ARGV[8])))
  redis.call('PEXPIRE', KEYS[5], ARGV[8])
end
for _, each in ipairs(notes) do
  redis.call('HSET', each[1], each[2], each[3])
end
for _, each in ipairs(losses) do
  local loss = whole(-each[4])
  redis.call('HINCRBY', each[1], 'held|' .. each[3], loss)
  for _, prefix in ipairs(cmsgpack.unpack(each[2])) do
    if redis.call('HINCRBY', KEYS[3], prefix .. each[3], loss) == 0 then
      redis.call('HDEL', KEYS[3], prefix .. each[3])
    end
  end
end
for _, each in ipairs(ends) do
  redis.call('HSET', each[1], 'ended', each[3])
  redis.call('PEXPIRE', each[1], ARGV[8])
  redis.call('ZREM', KEYS[4], each[2])
end
redis.call('HSET', KEYS[1], 'sequence', ARGV[6], 'commit_id', ARGV[7])
return {'APPLIED', beyond, after}
