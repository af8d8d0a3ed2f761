-- Return the revision of each access request, unless the caller knows the current version.
-- KEYS: a hash of sealed requests by ID, a hash of their revisions by ID with one more field,
-- 'version'. Neither has an expiry, so that no eviction policy for volatile keys removes them.
-- ARGV: the version that the caller knows.
-- Returns {version} if it is current; else {version, IDs and revisions}.
local version = redis.call('HGET', KEYS[2], 'version') or ''
if version ~= '' and version == ARGV[1] then
  return {version}
end
return {version, redis.call('HGETALL', KEYS[2])}
