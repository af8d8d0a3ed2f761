#!lua
-- Leave a process's answer to a question where who asked looks for it.
-- KEYS: the answers (a hash by process). ARGV: process id, answer, life in ms.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
