#!lua
-- Take all answers to a question once so many are there; before, say nothing.
-- KEYS: the answers (a hash by process). ARGV: how many.
if redis.call('HLEN', KEYS[1]) < tonumber(ARGV[1]) then
  return false
end
local answers = redis.call('HVALS', KEYS[1])
redis.call('DEL', KEYS[1])
return answers
