-- Return hosts and entries of each recording; an empty list for one that has expired.
-- KEYS: recordings (hashes by host).
local found = {}
for i = 1, #KEYS do
  found[i] = redis.call('HGETALL', KEYS[i])
end
return found
