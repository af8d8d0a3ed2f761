-- Add overrides and remove expired ones; notify all replicas if overrides were added.
-- KEYS: a hash of sealed overrides by ID, with two more fields: 'version', and 'complete' once a
-- process that knows all overrides has added them. The key has no expiry, so that no eviction
-- policy for volatile keys removes it.
-- ARGV: a new version (random: a server that lost data must not reach an earlier value again by
-- counting), 1 if the caller has added all overrides, channel, message, number of IDs to remove,
-- these IDs, then ID and sealed override of each addition.
local key, removals, is_changed = KEYS[1], tonumber(ARGV[5]), false
for i = 6, 5 + removals do
  redis.call('HDEL', key, ARGV[i])
end
for i = 6 + removals, #ARGV, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  is_changed = true
end
if ARGV[2] == '1' and redis.call('HSETNX', key, 'complete', '1') == 1 then
  is_changed = true
end
if is_changed then
  redis.call('HSET', key, 'version', ARGV[1])
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return 1
