-- Extend a lease. Returns 0 if another owner has it. KEYS: lease. ARGV: owner, lease in ms.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
