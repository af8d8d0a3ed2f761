-- Read one batch of the audit stream's lines.
-- KEYS: stream. ARGV: ID after which to read ('': from the beginning), number of lines to examine,
-- minimum age in ms (0: any), then texts: lines that contain none of them are left out.
-- Returns the ID of the last line examined ('': none), then the lines.
local to = '+'
if ARGV[3] ~= '0' then
  local time = redis.call('TIME')
  to = string.format('%.0f', time[1] * 1000 + time[2] / 1000 - tonumber(ARGV[3]))
end
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local found = {''}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], from, to, 'COUNT', ARGV[2])) do
  local line = entry[2][2]
  found[1] = entry[1]
  for i = 4, #ARGV do
    if string.find(line, ARGV[i], 1, true) then
      found[#found + 1] = line
      break
    end
  end
end
return found
