#!lua
-- End a fetch: store its value, or its failure, or give the lease up; then wake who waits.
-- Only the lease's owner may, so a holder that was slow past its lease overwrites nothing.
-- KEYS: value, lease, failure. ARGV: owner, 'value' | 'failure' | 'abandoned', payload,
-- life in ms, channel, message.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'value' then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
elseif ARGV[2] == 'failure' then
  redis.call('SET', KEYS[3], ARGV[1] .. ARGV[3], 'PX', ARGV[4])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
