#!lua
-- Tell the standing orders, unless they are those that the caller knows.
-- KEYS: the orders (a hash by id), their version. ARGV: the version that is known.
-- Returns the version alone, or the version and the orders.
local version = redis.call('GET', KEYS[2]) or ''
if version ~= '' and version == ARGV[1] then
  return {version}
end
return {version, redis.call('HVALS', KEYS[1])}
