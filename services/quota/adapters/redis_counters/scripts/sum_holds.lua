-- Adds up what open reservations hold, as many of them as it may.
--
-- KEYS  1.. one reservation each
-- ARGV  1 epoch   2 how many counters of reservations to add up at most; the first reservation is read, whatever it holds
-- Answers {reservations read, counters added up, field, quantity, ...}.
--
-- Why so: what a reservation costs to read goes by its meters and scopes, and a script keeps everybody else waiting.

local sums, read_count, counters_count = {}, 0, 0
for _, key in ipairs(KEYS) do
  if counters_count >= tonumber(ARGV[2]) then
    break
  end
  read_count = read_count + 1
  local record = record_of(key, ARGV[1])
  if record.scopes and not record.ended then
    for name, remaining in pairs(record) do
      if string.sub(name, 1, 5) == 'held|' and remaining ~= '0' then
        for _, prefix in ipairs(cmsgpack.unpack(record.scopes)) do
          local field = prefix .. string.sub(name, 6)
          counters_count = counters_count + 1
          sums[field] = (sums[field] or 0) + tonumber(remaining)
        end
      end
    end
  end
end

local answer = {read_count, counters_count}
for field, quantity in pairs(sums) do
  answer[#answer + 1] = field
  answer[#answer + 1] = whole(quantity)
end
return answer
