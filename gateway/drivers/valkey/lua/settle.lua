#!lua
-- End a fetch: store its value, or its failure, or give the lease up; then wake who waits.
-- Only the lease's owner may, so a holder that was slow past its lease overwrites nothing.
-- KEYS: value, lease, failure. ARGV: owner, 'value' | 'failure' | 'abandoned', payload,
-- life in ms, a value's version, its end in ms of this server's clock, channel, message.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'value' then
  -- The life was told when this was sent, and a server that hung runs it late.
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local life = math.min(tonumber(ARGV[4]), tonumber(ARGV[6]) - now - 1)
  if life > 0 then
    local stored_at = string.format('%013.0f', now)
    redis.call('SET', KEYS[1], ARGV[5] .. stored_at .. ARGV[3], 'PX', life)
  end
elseif ARGV[2] == 'failure' then
  redis.call('SET', KEYS[3], ARGV[1] .. ARGV[3], 'PX', ARGV[4])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[7], ARGV[8])
return 1
