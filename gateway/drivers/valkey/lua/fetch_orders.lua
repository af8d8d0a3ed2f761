#!lua
-- Return some of the orders. KEYS: as add_orders.lua. ARGV: their ids, a few hundred at most.
return redis.call('HMGET', KEYS[1], unpack(ARGV))
