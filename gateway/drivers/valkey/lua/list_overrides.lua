-- Return the fields of the hash of overrides, unless the caller knows the current version.
-- KEYS: as in add_overrides.lua. ARGV: the version that the caller knows.
-- Returns {version} if it is current; else {version, 1 if complete, fields}.
local version = redis.call('HGET', KEYS[1], 'version') or ''
if version ~= '' and version == ARGV[1] then
  return {version}
end
return {version, redis.call('HEXISTS', KEYS[1], 'complete'), redis.call('HKEYS', KEYS[1])}
