#!lua
-- Tell which orders there are, unless they are those that the caller knows.
-- KEYS: as add_orders.lua. ARGV: the version that is known.
-- Returns the version alone, or the version, 1 if these are all, and the names in the hash.
local version = redis.call('HGET', KEYS[1], 'version') or ''
if version ~= '' and version == ARGV[1] then
  return {version}
end
return {version, redis.call('HEXISTS', KEYS[1], 'complete'), redis.call('HKEYS', KEYS[1])}
