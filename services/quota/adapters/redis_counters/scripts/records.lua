-- What the scripts that look at reservations begin with; the store puts it before each of them.

local MAX = 9007199254740991

-- Numbers are stored as '%.0f', since Lua's own tostring would write 1e+15.
local function whole(number)
  return string.format('%.0f', number)
end

local function hash_of(key)
  local record, flat = {}, redis.call('HGETALL', key)
  for index = 1, #flat, 2 do
    record[flat[index]] = flat[index + 1]
  end
  return record
end

-- A record of an epoch that is over is void, unless it is of a consumption: the windows that it counts in have no epoch.
local function record_of(key, epoch)
  local record = hash_of(key)
  return (record.epoch == epoch or record.ended == 'consumed') and record or {}
end

-- What a reservation was last granted of a meter, whatever events have drawn since: what it held then.
local function target_of(record, meter)
  return tonumber(record['target|' .. meter] or record['granted|' .. meter] or '0')
end

