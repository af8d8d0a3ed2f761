-- End a fetch: store its value or its failure, or only release the lease; then wake the waiters,
-- if a claim has found the lease held.
-- Returns 0 without effect if another owner has the lease: a late holder overwrites nothing.
-- KEYS: value, lease, failure, mark of a waiter. ARGV: owner, 'value' | 'failure' | 'abandoned', payload,
-- TTL in ms, a value's version, its expiry in ms of this server's clock, channel, message.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'value' then
  -- The TTL counts from when the call was sent; a server that hung runs the script later.
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local ttl = math.min(tonumber(ARGV[4]), tonumber(ARGV[6]) - now - 1)
  if ttl > 0 then
    local stored_at = string.format('%013.0f', now)
    redis.call('SET', KEYS[1], ARGV[5] .. stored_at .. ARGV[3], 'PX', ttl)
  end
elseif ARGV[2] == 'failure' then
  redis.call('SET', KEYS[3], ARGV[1] .. ARGV[3], 'PX', ARGV[4])
end
redis.call('DEL', KEYS[2])
if redis.call('DEL', KEYS[4]) == 1 then
  redis.call('PUBLISH', ARGV[7], ARGV[8])
end
return 1
