-- Append lines of one chain to the audit stream, unless earlier lines of the chain are missing.
-- Lines after ARGV[3] are deleted first: an earlier attempt appended them, but its sender never
-- received the success.
-- KEYS: stream, state of the chain. ARGV: sender, number of its attempt, last committed line of the
-- chain, lifetime of the state in ms, 1 to append although lines are missing, then the lines.
-- Returns the chain's last line in the stream: less than ARGV[3] if nothing was appended; -1 if a
-- later attempt of this sender arrived first.
local state = redis.call('HMGET', KEYS[2], 'sender', 'attempt', 'seq', 'ids')
if state[1] == ARGV[1] and tonumber(state[2]) >= tonumber(ARGV[2]) then
  return -1
end
local seq = tonumber(ARGV[3])
local last_seq = tonumber(state[3] or 0)
if last_seq > 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  last_seq = 0
end
if last_seq < seq and ARGV[5] ~= '1' then
  return last_seq
end
if last_seq > seq then
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
