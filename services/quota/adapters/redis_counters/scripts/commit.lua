-- Says what a reservation came to: trims what it holds to what of that the ledger has not drawn yet, and gives that a day.
--
-- KEYS  1 state   2 held   3 expiries   4 reservation
-- ARGV  1 reservation id   2 how long it may settle, in microseconds   3 how long an ended reservation is remembered, in
--         milliseconds   4.. meter and what was used of it, for each
-- Answers {'UNKNOWN'} there is no such reservation; else {'COMMITTED', expiry or '' when nothing is held any more, now,
--       next expiry or '', then for each meter: meter, held, overrun}.
--
-- Why so: the rest is free at once, because the caller says that it will not be used; what the actual is ahead of the
-- ledger must stay, or it would be counted by nobody until its event comes. Repeated, it finds nothing left to trim.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local record = hash_of(KEYS[4])
-- Without the parts that hold, what is noted on the record is held no longer, and a new list of ends would stay for ever.
if not epoch or record.epoch ~= epoch or record.tombstone or not record.scopes
    or redis.call('HGET', KEYS[2], 'epoch') ~= epoch or not redis.call('ZSCORE', KEYS[3], '|' .. epoch) then
  return {'UNKNOWN'}
end

local actuals, meters = {}, {}
for at = 4, #ARGV, 2 do
  actuals[ARGV[at]] = tonumber(ARGV[at + 1])
  meters[#meters + 1] = ARGV[at]
end
for name in pairs(record) do
  local meter = string.match(name, '^granted|(.*)$')
  if meter and not actuals[meter] then
    actuals[meter] = 0
    meters[#meters + 1] = meter
  end
end
table.sort(meters)

local answer, losses, left = {}, {}, 0
for _, meter in ipairs(meters) do
  local held = tonumber(record['held|' .. meter] or '0')
  local drawn = tonumber(record['drawn|' .. meter] or '0')
  local granted = tonumber(record['granted|' .. meter] or '0')
  local kept = math.min(held, math.max(0, actuals[meter] - drawn))
  if held > kept then
    losses[#losses + 1] = {meter, whole(kept - held)}
  end
  left = left + kept
  -- What one that was made anew was granted before is not known.
  local overrun = record.restored and 0 or math.max(0, actuals[meter] - granted)
  answer[#answer + 1] = meter
  answer[#answer + 1] = whole(kept)
  answer[#answer + 1] = whole(overrun)
end

local expire_us = record.expire_us
local is_new = not record.ended and left > 0 and not record.settling and not record.releasing
if is_new then
  expire_us = whole(now + tonumber(ARGV[2]))
  redis.call('ZADD', KEYS[3], expire_us, ARGV[1])
  redis.call('HSET', KEYS[4], 'settling', '1', 'expire_us', expire_us)
  redis.call('HDEL', KEYS[4], 'expired_at_head')
end
local scopes = cmsgpack.unpack(record.scopes)
for _, each in ipairs(losses) do
  redis.call('HINCRBY', KEYS[4], 'held|' .. each[1], each[2])
  for _, prefix in ipairs(scopes) do
    if redis.call('HINCRBY', KEYS[2], prefix .. each[1], each[2]) == 0 then
      redis.call('HDEL', KEYS[2], prefix .. each[1])
    end
  end
end
if left == 0 then
  expire_us = ''
  if not record.ended then
    redis.call('HSET', KEYS[4], 'ended', 'settled')
    redis.call('PEXPIRE', KEYS[4], ARGV[3])
    redis.call('ZREM', KEYS[3], ARGV[1])
  end
end
local next_expiry = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
-- The epoch's own member, see reset.lua: nothing is open.
if next_expiry == 'inf' then
  next_expiry = nil
end
return {'COMMITTED', expire_us, whole(now), next_expiry or '', unpack(answer)}
