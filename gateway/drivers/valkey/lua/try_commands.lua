-- Try every command that the other scripts use, and return those that fail.
-- KEYS: a string, a hash, a sorted set and a stream, which the script deletes. ARGV: a channel,
-- '1' to try the commands of the audit stream, too.
-- Returns name and error of each command that failed.
local text, hash, set, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local failed = {}
local function try(name, ...)
  local reply = redis.pcall(name, ...)
  if type(reply) == 'table' and reply.err then
    failed[#failed + 1] = name
    failed[#failed + 1] = reply.err
  end
end

try('TIME')
try('SET', text, '1', 'NX', 'PX', '1000')
try('GET', text)
try('EXISTS', text)
try('PTTL', text)
try('PEXPIRE', text, '1000')
try('EXPIRE', text, '1')
try('HSET', hash, 'a', '1')
try('HSETNX', hash, 'b', '1')
try('HGET', hash, 'a')
try('HMGET', hash, 'a', 'b')
try('HGETALL', hash)
try('HEXISTS', hash, 'a')
try('HKEYS', hash)
try('HVALS', hash)
try('HLEN', hash)
try('HDEL', hash, 'b')
try('ZADD', set, '1', 'a')
try('ZINCRBY', set, '1', 'a')
try('ZSCORE', set, 'a')
try('ZRANK', set, 'a')
try('ZRANGE', set, '0', '-1')
try('ZRANGEBYSCORE', set, '0', '+inf')
try('ZCARD', set)
try('ZCOUNT', set, '-inf', '+inf')
try('ZREMRANGEBYSCORE', set, '-inf', '0')
try('ZREM', set, 'a')
if ARGV[2] == '1' then
  try('XADD', stream, '1-1', 'line', '')
  try('XRANGE', stream, '(0', '+', 'COUNT', '1')
  try('XLEN', stream)
  try('XTRIM', stream, 'MINID', '~', '0')
  try('XDEL', stream, '1-1')
  try('MEMORY', 'USAGE', stream)
end
try('PUBLISH', ARGV[1], '')
for i = 1, #KEYS do try('DEL', KEYS[i]) end
return failed
