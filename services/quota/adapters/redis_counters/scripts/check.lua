-- Decides checks of one organization in their order, each all or nothing and each seeing what those before it hold, and
-- holds and admits what they allow. The twin of `decide` in domain/decisions.py and of domain/windows.py. Without checks
-- it reads the counters and windows of its shapes.
--
-- KEYS  1 entitlement   2 state   3 used (of the period sent)   4 held   5 expiries
--       6.. the windows of each shape, shape by shape; then the records that checks refer to
-- ARGV  1 packed {entitlement version, commit id of the organization's own limits, period start, period end, '1' when billing says that this
--         period is current whatever the clock says, '1' in good standing (else everything is denied), when keys of the
--         organization may be dropped in Unix milliseconds, how long a consumption and an ended reservation are
--         remembered in milliseconds, checks, the applied sequence that the caller has seen, '1' when all checks are to be
--         allowed or none}
--         a check: {shape, quantities (-1: a gate), mode, how long to hold in microseconds, record's key or 0, id,
--         digest of the content, owner}
--       2.. packed shapes, what checks of the same subject and meters have in common:
--         {fields of counters, for each consumption: the counters it is held under, limits, windows, admissions, terms
--         (opaque, answered when the check is repeated), scopes (packed prefixes of fields), meters, levels that must be
--         tracked (level|meter)}
--         a limit: {kind, consumption, counter or window, limit, hard limit (-1 both: unlimited), 1 in shadow}
--         a window: {length of a slot, slots counted};  an admission: {window, consumption}
-- Answers {'MISSING'} no counters for this period or level; {'OUTDATED'} other terms are kept, or the period is over;
--      {'BEHIND'} less is applied than the caller has seen; else packed
--      {now, applied sequence, next expiry or -1, answers, readings}; an answer:
--      {DECIDED, outcome, numbers, expiry or 0, 1 when made anew} | {REPEATED, packed answer, terms, expiry or ''} |
--      {REUSED} | {ENDED} | {UNKNOWN};  packed answer: {now, applied sequence, outcome, numbers, expiry or 0}
--      numbers, of each limit: used, held, outcome, when its window is empty, when it has room (0: never).
--      readings, of each shape: used and held of each counter, then quantity and emptiness of each window.
--
-- Why so: time is Redis' own, so that no two callers disagree about a period's end. Every number is an integer of at
-- most 2^53 - 1, exact in a double and in MessagePack; a comparison subtracts (hard - used - held), because a sum could
-- pass 2^53. Everything is read and decided before the first write.

local DECIDE, RESERVE, CONSUME, EXTEND, REGISTER = 0, 1, 2, 3, 4
local PERIOD, WINDOW = 0, 1
local ALLOWED, IN_GRACE, DENIED = 0, 1, 2
local DECIDED, REPEATED, REUSED, ENDED, UNKNOWN = 0, 1, 2, 3, 4
local FIELDS_AT_ONCE = 1000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local header = cmsgpack.unpack(ARGV[1])
local period_start, period_end = whole(header[3]), whole(header[4])
local kept_until, checks = whole(header[7]), header[10]
local next_expiry = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
-- The epoch's own member, see reset.lua: nothing is open.
next_expiry = next_expiry and next_expiry ~= 'inf' and tonumber(next_expiry) or -1

local state = redis.call('HMGET', KEYS[2], 'epoch', 'sequence', 'period_start_us', 'period_end_us', 'tracked')
local epoch, sequence = state[1], tonumber(state[2] or '0')

-- A retry is answered first: what was held stays held, whatever became of terms, period and standing.
local answers, records, open_count = {}, {}, 0
for index, check in ipairs(checks) do
  local key, mode = check[5], check[3]
  if key > 0 and mode ~= EXTEND and mode ~= REGISTER then
    local first = redis.call('HMGET', KEYS[key], 'epoch', 'digest', 'answer', 'terms', 'expire_us', 'tombstone', 'ended')
    local is_known = first[1] and (first[1] == epoch or first[7] == 'consumed')
    if is_known and not first[6] then
      if first[2] == '' or first[2] == check[7] then
        answers[index] = {REPEATED, first[3], first[4], first[5] or ''}
      else
        answers[index] = {REUSED}
      end
    elseif is_known then
      records[key] = hash_of(KEYS[key])
    end
  end
  if not answers[index] then
    open_count = open_count + 1
  end
end
if open_count == 0 and #checks > 0 then
  return cmsgpack.pack({now, sequence, next_expiry, answers, {}})
end

local kept = redis.call('HMGET', KEYS[1], 'version', 'period_start_us', 'period_end_us', 'limits_commit_id')
if kept[1] ~= whole(header[1]) or kept[2] ~= period_start or kept[3] ~= period_end or kept[4] ~= header[2] then
  return {'OUTDATED'}
end
if header[5] == 0 and now >= header[4] then
  return {'OUTDATED'}
end
if not epoch or state[3] ~= period_start or state[4] ~= period_end then
  return {'MISSING'}
end
if sequence < header[11] then
  return {'BEHIND'}
end
if not redis.call('ZSCORE', KEYS[5], '|' .. epoch) then
  return {'MISSING'}
end

-- Counters by field and windows by key, read once for all checks. A part that is gone must not read as zero.
local used, held, windows, grown = {}, {}, {}, {}
local function read_counters(fields)
  for first = 1, math.max(#fields, 1), FIELDS_AT_ONCE do
    local asked = {'epoch'}
    for at = first, math.min(first + FIELDS_AT_ONCE - 1, #fields) do
      if not used[fields[at]] then
        asked[#asked + 1] = fields[at]
      end
    end
    local used_values = redis.call('HMGET', KEYS[3], unpack(asked))
    local held_values = redis.call('HMGET', KEYS[4], unpack(asked))
    if used_values[1] ~= epoch or held_values[1] ~= epoch then
      return false
    end
    for at = 2, #asked do
      used[asked[at]] = tonumber(used_values[at] or '0')
      held[asked[at]] = tonumber(held_values[at] or '0')
    end
  end
  return true
end

local function read_window(key, slot_us, counted)
  local window = {key = key, slot_us = slot_us, counted = counted, slots = {}, quantity = 0, latest = 0, admitted = 0}
  local current = math.floor(now / slot_us)
  local flat = redis.call('HGETALL', key)
  for at = 1, #flat, 2 do
    window.latest = math.max(window.latest, tonumber(flat[at]))
  end
  -- Time that stepped back by more than a window: what is kept belongs to a future that is not.
  window.stale = window.latest > current + counted
  if window.stale then
    window.current = current
  else
    window.current = math.max(current, window.latest)
    for at = 1, #flat, 2 do
      local number, quantity = tonumber(flat[at]), tonumber(flat[at + 1])
      if number > window.current - counted then
        window.slots[number] = quantity
        window.quantity = math.min(window.quantity + quantity, MAX)
      else
        window.left = window.left or {}
        window.left[#window.left + 1] = flat[at]
      end
    end
  end
  return window
end

-- When all that is in a window has left it; 0: it is empty.
local function empty_us(window)
  -- Looked for once: many limits may be of one window.
  if not window.empty_us then
    local filled = -1
    for number, quantity in pairs(window.slots) do
      if quantity > 0 and number > filled then
        filled = number
      end
    end
    window.empty_us = filled < 0 and 0 or (filled + window.counted) * window.slot_us
  end
  return window.empty_us
end

-- When `needed` fits below `hard`; 0: never.
local function room_us(window, needed, hard)
  local numbers, left = {}, window.quantity
  for number in pairs(window.slots) do
    numbers[#numbers + 1] = number
  end
  table.sort(numbers)
  for _, number in ipairs(numbers) do
    left = left - window.slots[number]
    if needed <= hard - left then
      return (number + window.counted) * window.slot_us
    end
  end
  return 0
end

local shapes, key_at = {}, 6
for index = 2, #ARGV do
  local shape = cmsgpack.unpack(ARGV[index])
  if not read_counters(shape[1]) then
    return {'MISSING'}
  end
  for _, level in ipairs(shape[9]) do
    -- One to a line, see reset.lua.
    if not string.find(state[5] or '', '\n' .. level .. '\n', 1, true) then
      return {'MISSING'}
    end
  end
  local own = {}
  for at, window in ipairs(shape[4]) do
    local key = KEYS[key_at]
    windows[key] = windows[key] or read_window(key, window[1], window[2])
    own[at] = windows[key]
    key_at = key_at + 1
  end
  shape.windows = own
  shapes[index - 1] = shape
end

if #checks == 0 then
  local readings = {}
  for index, shape in ipairs(shapes) do
    local reading = {}
    for _, field in ipairs(shape[1]) do
      reading[#reading + 1] = used[field]
      reading[#reading + 1] = held[field]
    end
    for _, window in ipairs(shape.windows) do
      reading[#reading + 1] = window.quantity
      reading[#reading + 1] = empty_us(window)
    end
    readings[index] = reading
  end
  return cmsgpack.pack({now, sequence, next_expiry, {}, readings})
end

local writes, prolonged = {}, {}

local function needed_of(quantity)
  return quantity < 0 and 1 or quantity
end

local function judge(shape, quantities, growth_only)
  local outcomes, outcome = {}, ALLOWED
  for at, limit in ipairs(shape[3]) do
    local verdict, quantity = ALLOWED, quantities[limit[2]]
    if limit[4] >= 0 and not (growth_only and quantity == 0) then
      local counted, waiting = 0, 0
      if limit[1] == WINDOW then
        counted = shape.windows[limit[3]].quantity
      else
        local field = shape[1][limit[3]]
        counted, waiting = limit[1] == PERIOD and used[field] or 0, held[field]
      end
      local needed = needed_of(quantity)
      if needed > limit[5] - counted - waiting then
        verdict = DENIED
      elseif needed > limit[4] - counted - waiting then
        verdict = IN_GRACE
      end
    end
    outcomes[at] = verdict
    if limit[6] == 0 and verdict > outcome then
      outcome = verdict
    end
  end
  if header[6] == 0 then
    outcome = DENIED
  end
  return outcome, outcomes
end

local function show(shape, quantities, outcomes)
  local numbers = {}
  for at, limit in ipairs(shape[3]) do
    local counted, waiting, empty, room = 0, 0, 0, 0
    if limit[1] == WINDOW then
      local window = shape.windows[limit[3]]
      counted, empty = window.quantity, empty_us(window)
      if outcomes[at] == DENIED then
        room = room_us(window, needed_of(quantities[limit[2]]), limit[5])
      end
    else
      local field = shape[1][limit[3]]
      counted, waiting = limit[1] == PERIOD and used[field] or 0, held[field]
    end
    local last = #numbers
    numbers[last + 1], numbers[last + 2], numbers[last + 3] = counted, waiting, outcomes[at]
    numbers[last + 4], numbers[last + 5] = empty, room
  end
  return numbers
end

-- What of a quantity is held, under all of its counters alike: none of them passes the maximum.
local function hold(shape, consumption, quantity)
  local amount = math.max(quantity, 0)
  for _, at in ipairs(shape[2][consumption]) do
    amount = math.min(amount, MAX - held[shape[1][at]])
  end
  if amount > 0 then
    for _, at in ipairs(shape[2][consumption]) do
      local field = shape[1][at]
      held[field] = held[field] + amount
      grown[field] = (grown[field] or 0) + amount
    end
  end
  return amount
end

local function admit(shape, quantities)
  for _, admission in ipairs(shape[5]) do
    local window = shape.windows[admission[1]]
    local amount = math.min(math.max(quantities[admission[2]], 0), MAX - window.quantity)
    if amount > 0 then
      window.quantity = window.quantity + amount
      window.slots[window.current] = (window.slots[window.current] or 0) + amount
      window.admitted = window.admitted + amount
      window.empty_us = nil
    end
  end
end

for index, check in ipairs(checks) do
  local shape, quantities, mode, key = shapes[check[1]], check[2], check[3], check[5]
  -- `before`: what was noted of one that is made anew. `bases`: what one that grows is granted already.
  local record, before, bases, made_anew, growth_only = records[key], nil, nil, 0, false
  if not answers[index] and record and record.made then
    -- The same id twice in one call.
    answers[index] = record.digest == check[7] and {REPEATED, record.answer, record.terms, record.expire_us or ''}
      or {REUSED}
  elseif not answers[index] and mode == EXTEND then
    record = record_of(KEYS[key], epoch)
    if record.settling or record.releasing or record.final or (record.ended and record.ended ~= 'time') then
      answers[index] = {ENDED}
    elseif record.epoch and not record.tombstone and not record.ended then
      if record.scopes ~= shape[7] then
        answers[index] = {REUSED}
      end
      growth_only, bases = true, {}
      for at, meter in ipairs(shape[8]) do
        bases[at] = tonumber(record['held|' .. meter] or '0')
        if quantities[at] >= 0 then
          quantities[at] = math.max(0, quantities[at] - bases[at])
        end
      end
    elseif #quantities == 0 then
      answers[index] = {UNKNOWN}
    else
      before, record, made_anew = record, nil, 1
    end
  elseif not answers[index] and mode == REGISTER then
    record = record_of(KEYS[key], epoch)
    if record.epoch and not record.tombstone and record.ended ~= 'time' then
      local is_open, grows = not record.ended and not record.settling and not record.releasing, false
      if is_open and record.scopes == shape[7] then
        bases = {}
        for at, meter in ipairs(shape[8]) do
          -- What events drew of what it held all along is no room to hold it once more.
          bases[at] = target_of(record, meter)
          quantities[at] = math.max(0, quantities[at] - bases[at])
          grows = grows or quantities[at] > 0
        end
      end
      if not grows then
        answers[index] = {REPEATED, record.answer, record.terms, record.expire_us or ''}
        if is_open and now + check[4] > tonumber(record.expire_us) then
          prolonged[#prolonged + 1] = {KEYS[key], check[6], whole(now + check[4])}
        end
      end
    elseif #quantities == 0 then
      answers[index] = {UNKNOWN}
    elseif not record.tombstone then
      made_anew, before, record = record.ended and 1 or 0, record, nil
    end
  end
  if not answers[index] then
    local outcome, outcomes = judge(shape, quantities, growth_only)
    if mode == REGISTER then
      -- It was allowed already, and its retries are answered so.
      outcome = ALLOWED
      for at = 1, #outcomes do
        outcomes[at] = ALLOWED
      end
    end
    local moves = mode ~= DECIDE and outcome ~= DENIED
    local expire_us, fields = 0, nil
    if moves and mode ~= CONSUME then
      expire_us = now + check[4]
      if bases and mode == REGISTER then
        expire_us = math.max(expire_us, tonumber(record.expire_us))
      end
      fields = {}
      for at, meter in ipairs(shape[8]) do
        local quantity = math.max(quantities[at], 0)
        if bases then
          local amount, target = hold(shape, at, quantity), math.min(bases[at] + quantity, MAX)
          if quantity > 0 or (quantities[at] == 0 and target ~= target_of(record, meter)) then
            local granted = math.min(tonumber(record['granted|' .. meter] or '0') + quantity, MAX)
            fields[#fields + 1] = {meter, tonumber(record['held|' .. meter] or '0') + amount, granted, target}
          end
        else
          -- What was drawn already is not held again, but by who says what is still to come.
          local noted = record or before or {}
          local drawn = tonumber(noted['drawn|' .. meter] or '0')
          local amount = 0
          if not (record and record.final) then
            amount = hold(shape, at, math.max(0, quantity - (record and drawn or 0)))
          end
          if quantity > 0 then
            fields[#fields + 1] = {meter, amount, quantity, drawn}
          end
        end
      end
    end
    -- What is registered was admitted in a time that is over: it must not land in the window of now.
    if moves and mode ~= REGISTER then
      admit(shape, quantities)
    end
    local numbers = show(shape, quantities, outcomes)
    answers[index] = {DECIDED, outcome, numbers, expire_us, made_anew}
    if moves and key > 0 then
      local kept_record = {
        made = true, digest = check[7], terms = shape[6], expire_us = expire_us > 0 and whole(expire_us) or nil,
        answer = cmsgpack.pack({now, sequence, outcome, numbers, expire_us}),
      }
      writes[#writes + 1] = {
        check = check, shape = shape, fields = fields, record = kept_record, before = record, grows = bases,
        made_anew = made_anew,
      }
      records[key] = kept_record
    end
  end
end

-- All or none: one denial takes back what the others admitted. They are consumptions that leave no record and hold nothing.
if header[12] == 1 then
  local denied = false
  for _, answer in ipairs(answers) do
    denied = denied or answer[2] == DENIED
  end
  if denied then
    for _, window in pairs(windows) do
      if window.admitted > 0 then
        window.quantity = window.quantity - window.admitted
        window.slots[window.current] = window.slots[window.current] - window.admitted
        window.admitted = 0
        window.empty_us = nil
      end
    end
    for index, check in ipairs(checks) do
      local said, outcomes = answers[index][3], {}
      for at = 3, #said, 5 do
        outcomes[#outcomes + 1] = said[at]
      end
      -- What each said stands, and so does when that will be otherwise.
      local numbers = show(shapes[check[1]], check[2], outcomes)
      for at = 5, #said, 5 do
        numbers[at] = said[at]
      end
      answers[index][3] = numbers
    end
  end
end

-- First the command that a full server refuses: it asks only before a script's first write.
for _, write in ipairs(writes) do
  if write.record.expire_us then
    local is_over = write.before and write.before.tombstone and write.before.final
    if not is_over then
      redis.call('ZADD', KEYS[5], write.record.expire_us, write.check[6])
      local expire_us = tonumber(write.record.expire_us)
      if next_expiry < 0 or expire_us < next_expiry then
        next_expiry = expire_us
      end
    end
  end
end
for _, each in ipairs(prolonged) do
  redis.call('ZADD', KEYS[5], each[3], each[2])
  redis.call('HSET', each[1], 'expire_us', each[3])
  redis.call('HDEL', each[1], 'expired_at_head')
end
for _, write in ipairs(writes) do
  local key, mode, record, before = KEYS[write.check[5]], write.check[3], write.record, write.before
  if mode == CONSUME then
    redis.call('DEL', key)
    redis.call('HSET', key, 'epoch', epoch, 'digest', record.digest, 'answer', record.answer, 'terms', record.terms,
      'ended', 'consumed')
    redis.call('PEXPIRE', key, whole(header[8]))
  elseif write.grows then
    local values = {'expire_us', record.expire_us}
    for _, each in ipairs(write.fields) do
      local last = #values
      values[last + 1], values[last + 2] = 'held|' .. each[1], whole(each[2])
      values[last + 3], values[last + 4] = 'granted|' .. each[1], whole(each[3])
      values[last + 5], values[last + 6] = 'target|' .. each[1], whole(each[4])
    end
    redis.call('HSET', key, unpack(values))
    redis.call('HDEL', key, 'expired_at_head')
    redis.call('PEXPIREAT', key, kept_until)
  else
    redis.call('DEL', key)
    local values = {'epoch', epoch, 'digest', record.digest, 'owner', write.check[8], 'answer', record.answer,
      'terms', record.terms, 'expire_us', record.expire_us, 'scopes', write.shape[7]}
    for _, each in ipairs(write.fields) do
      local last = #values
      values[last + 1], values[last + 2] = 'held|' .. each[1], whole(each[2])
      values[last + 3], values[last + 4] = 'granted|' .. each[1], whole(each[3])
      values[last + 5], values[last + 6] = 'drawn|' .. each[1], whole(each[4])
    end
    if write.made_anew == 1 then
      values[#values + 1], values[#values + 2] = 'restored', '1'
    end
    redis.call('HSET', key, unpack(values))
    if before and before.tombstone and before.final then
      redis.call('HSET', key, 'ended', 'final')
      redis.call('PEXPIRE', key, whole(header[9]))
    else
      redis.call('PEXPIREAT', key, kept_until)
    end
  end
end
for field, amount in pairs(grown) do
  redis.call('HINCRBY', KEYS[4], field, whole(amount))
end
for key, window in pairs(windows) do
  if window.admitted > 0 then
    if window.stale then
      redis.call('DEL', key)
    elseif window.left then
      redis.call('HDEL', key, unpack(window.left))
    end
    redis.call('HINCRBY', key, whole(window.current), whole(window.admitted))
    redis.call('PEXPIRE', key, whole(math.ceil(window.slot_us * (window.counted + 1) / 1000)))
  end
end
if #writes > 0 then
  redis.call('PEXPIREAT', KEYS[5], kept_until)
  redis.call('PEXPIREAT', KEYS[4], kept_until)
end
return cmsgpack.pack({now, sequence, next_expiry, answers, {}})
