-- Ends reservations whose time has passed, once the counters include all that was recorded before their end was seen.
--
-- KEYS  1 state   2 held   3 expiries   4.. one reservation each
-- ARGV  1 sequence of the ledger's head now   2 how long an ended reservation is remembered, in milliseconds
--       3.. the reservations' ids, in the order of their keys
-- Answers {freed, of those: committed and never drawn in whole, waiting, now, next expiry or ''}.
--
-- Why so: usage recorded before the end but not applied yet would be counted by nobody if its hold were freed now.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local head = tonumber(ARGV[1])
local state = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
local epoch, applied = state[1], tonumber(state[2] or '0')
local intact = epoch and redis.call('HGET', KEYS[2], 'epoch') == epoch

local marks, draws, ends, gone, lost, waiting, unmatched = {}, {}, {}, {}, false, 0, 0
for key = 4, #KEYS do
  local id = ARGV[key - 1]
  local record = hash_of(KEYS[key])
  if not intact or record.epoch ~= epoch or record.tombstone or record.ended then
    gone[#gone + 1] = id
    -- An open reservation whose record vanished: what it held is unknown, so the holds are no longer to be believed.
    lost = lost or (intact and (not record.epoch or record.tombstone) and redis.call('ZSCORE', KEYS[3], id))
  elseif tonumber(record.expire_us) <= now then
    local noted = tonumber(record.expired_at_head or ARGV[1])
    if not record.expired_at_head then
      marks[#marks + 1] = KEYS[key]
    end
    -- A head that was noted and is no longer reached belongs to a ledger that was rewound.
    if applied >= math.min(noted, head) then
      ends[#ends + 1] = {KEYS[key], id, record.releasing and 'released' or record.settling and 'settled' or 'time'}
      local held = false
      for name, remaining in pairs(record) do
        if string.sub(name, 1, 5) == 'held|' and remaining ~= '0' then
          held = true
          draws[#draws + 1] = {KEYS[key], record.scopes, string.sub(name, 6), whole(-tonumber(remaining))}
        end
      end
      if record.settling and held then
        unmatched = unmatched + 1
      end
    else
      waiting = waiting + 1
    end
  end
end

for _, key in ipairs(marks) do
  redis.call('HSET', key, 'expired_at_head', ARGV[1])
end
for _, each in ipairs(draws) do
  redis.call('HINCRBY', each[1], 'held|' .. each[3], each[4])
  for _, prefix in ipairs(cmsgpack.unpack(each[2])) do
    if redis.call('HINCRBY', KEYS[2], prefix .. each[3], each[4]) == 0 then
      redis.call('HDEL', KEYS[2], prefix .. each[3])
    end
  end
end
for _, each in ipairs(ends) do
  redis.call('HSET', each[1], 'ended', each[3])
  redis.call('PEXPIRE', each[1], ARGV[2])
  redis.call('ZREM', KEYS[3], each[2])
end
for _, id in ipairs(gone) do
  redis.call('ZREM', KEYS[3], id)
end
if lost then
  redis.call('HDEL', KEYS[2], 'epoch')
end
local next_expiry = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
-- The epoch's own member, see reset.lua: nothing is open.
if next_expiry == 'inf' then
  next_expiry = nil
end
return {#ends, unmatched, waiting, whole(now), next_expiry or ''}
