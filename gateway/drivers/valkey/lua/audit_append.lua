#!lua
-- Append lines of one chain to the audit stream, unless lines before them are missing. What an
-- earlier attempt left behind, of which its sender was not told that it had worked, is taken back
-- first: the sender names where it stands.
-- KEYS: stream, the chain's state. ARGV: sender, number of its attempt, the chain's last line that
-- counts, for how many ms the state is kept, 1 where it is known that lines are missing, the lines.
-- Returns the chain's last line in the stream: below the one named when nothing was appended;
-- -1 when a later attempt of this sender came before.
local state = redis.call('HMGET', KEYS[2], 'sender', 'attempt', 'seq', 'ids')
if state[1] == ARGV[1] and tonumber(state[2]) >= tonumber(ARGV[2]) then
  return -1
end
local seq = tonumber(ARGV[3])
local stands = tonumber(state[3] or 0)
if stands > 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  stands = 0
end
if stands < seq and ARGV[5] ~= '1' then
  return stands
end
if stands > seq then
  for id in string.gmatch(state[4], '%S+') do
    redis.call('XDEL', KEYS[1], id)
  end
end
local ids = {}
for i = 6, #ARGV do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', 'line', ARGV[i])
end
redis.call('HSET', KEYS[2], 'sender', ARGV[1], 'attempt', ARGV[2],
  'seq', string.format('%d', seq + #ids), 'ids', table.concat(ids, ' '))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return seq + #ids
