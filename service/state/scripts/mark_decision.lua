-- mark_decision(record, index; id, mark) -> {} | {sealed record, left_ms, score}
--
-- Reads a decision of a user that is to be written again under another one, and marks that it was read: times in the index are whole
-- milliseconds, so one with a fraction says that nothing was written here since.
--
-- KEYS[1] string  {user}:decision:<id>  the sealed record
-- KEYS[2] zset    {user}:decisions      see write_decision, which takes the mark away                               written here
-- ARGV[1] id      the decision id
-- ARGV[2] mark    between 0 and 1, by which one move is told from another
--
-- Result: nothing where there is no such record; else the record, how long it lives, and its score in the index, by which drop_decision knows it.
-- Cluster: both keys carry the user's hash tag, so they are on one slot. No other key is touched.

local record, score = redis.call('GET', KEYS[1]), redis.call('ZSCORE', KEYS[2], ARGV[1])
local left_ms = redis.call('PTTL', KEYS[1])
if not record or not score or left_ms <= 0 then return {} end
redis.call('ZADD', KEYS[2], string.format('%.17g', math.floor(tonumber(score)) + tonumber(ARGV[2])), ARGV[1])
return {record, left_ms, redis.call('ZSCORE', KEYS[2], ARGV[1])}
