-- Replace a model's route document, unless it is of a larger epoch. One of the same epoch says the same: written again it is
-- healed where it was torn.
-- KEYS[1]  m:{model}:route, a hash {epoch, document}
-- ARGV[1]  epoch, decimal, below 2^53; ARGV[2]  the document
-- Returns 1 when it was written, 0 when the epoch is smaller.
local current = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '-1') or -1
if tonumber(ARGV[1]) < current then
    return 0
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'document', ARGV[2])
return 1
