-- Return and remove all responses to a query; false if there are fewer than expected.
-- KEYS: the responses (a hash by process). ARGV: the number expected.
if redis.call('HLEN', KEYS[1]) < tonumber(ARGV[1]) then
  return false
end
local responses = redis.call('HVALS', KEYS[1])
redis.call('DEL', KEYS[1])
return responses
