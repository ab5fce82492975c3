-- Names counters of members, some at a time.
--
-- KEYS  1 used or held
-- ARGV  1 where to go on ('0': the start)   2 about how many fields to look at   3.. what is wanted: level|meter
-- Answers {where to go on ('0': that was all), field, quantity, ...}.
--
-- Why so: an organization may have tens of thousands of members, and a script keeps everybody else waiting.

local wanted = {}
for at = 3, #ARGV do
  wanted[ARGV[at]] = true
end
local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local answer, fields = {scanned[1]}, scanned[2]
for at = 1, #fields, 2 do
  -- An id has no bar, a meter may.
  local level, meter = string.match(fields[at], '^(%l+)|[^|]*|(.*)$')
  if level and wanted[level .. '|' .. meter] then
    answer[#answer + 1] = fields[at]
    answer[#answer + 1] = fields[at + 1]
  end
end
return answer
