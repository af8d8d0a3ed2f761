#!lua
-- Append lines of one chain to the audit stream. What an earlier attempt left behind, of which its
-- sender was not told that it had worked, is taken back first: the sender names where it stands.
-- KEYS: stream, the chain's state. ARGV: sender, number of its attempt, the chain's last line that
-- counts, for how many ms the state is kept, the lines.
-- Returns 1; 0 when a later attempt of this sender came before.
local state = redis.call('HMGET', KEYS[2], 'sender', 'attempt', 'seq', 'ids')
if state[1] == ARGV[1] and tonumber(state[2]) >= tonumber(ARGV[2]) then
  return 0
end
local seq = tonumber(ARGV[3])
if state[3] and tonumber(state[3]) > seq then
  for id in string.gmatch(state[4], '%S+') do
    redis.call('XDEL', KEYS[1], id)
  end
end
local ids = {}
for i = 5, #ARGV do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', 'line', ARGV[i])
end
redis.call('HSET', KEYS[2], 'sender', ARGV[1], 'attempt', ARGV[2],
  'seq', string.format('%d', seq + #ids), 'ids', table.concat(ids, ' '))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
