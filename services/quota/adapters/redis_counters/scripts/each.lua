
-- Decides checks of several organizations of one node, one after the other, each as `check` does: check.lua, which the
-- store makes a function of KEYS and ARGV before this. What fails of one is its answer alone.
--
-- KEYS  the keys of each, one after the other
-- ARGV  1 packed {{keys, arguments} of each, how many}   2.. the arguments of each, one after the other
-- Answers what check.lua answers to each, or its error.

local answers, key_at, argument_at = {}, 0, 1
for index, size in ipairs(cmsgpack.unpack(ARGV[1])) do
  local keys, arguments = {}, {}
  for at = 1, size[1] do
    keys[at] = KEYS[key_at + at]
  end
  for at = 1, size[2] do
    arguments[at] = ARGV[argument_at + at]
  end
  key_at, argument_at = key_at + size[1], argument_at + size[2]
  local worked, answer = pcall(check, keys, arguments)
  if not worked and type(answer) ~= 'table' then
    answer = {err = tostring(answer)}
  end
  answers[index] = answer
end
return answers
