-- add_comparison(sum, events, log; seal, event, digest, basis, vector, payload, max_log, ttl_ms, token, replayed_prefix) -> {outcome [, sum record]}
--
-- Adds one comparison to a user's sum, once per event id, and logs it. Uses sum_records, which stands before it.
--
-- KEYS[1] string  {user}:sum:<basis>   the sum to add to: its record, see sum_records   written here
-- KEYS[2] hash    {user}:events        event id -> digest (16 bytes) .. token (8 bytes) .. stream id, or "x" if taken back;
--                                      "\1" .. basis -> "" for every basis with a sum; "\2" -> bases with replayed comparisons
-- KEYS[3] stream  {user}:log           kind "c": tag, event, basis, vector, payload; kind "x" (taken back): tag, event
-- ARGV[1] seal     17 bytes that open the user's sum record
-- ARGV[2] event    the event id
-- ARGV[3] digest   16 bytes of the canonical body
-- ARGV[4] basis    the basis id
-- ARGV[5] vector   packed doubles: epoch, observed_s, evidence...
-- ARGV[6] payload  opaque
-- ARGV[7] max_log  entries kept in the log
-- ARGV[8] ttl_ms   time to live of all three keys, set together
-- ARGV[9] token    8 random bytes of this request: a client that repeats a request whose answer it lost hears "applied", not "duplicate"
-- ARGV[10] replayed_prefix  "{user}:replayed:"; with the bases of "\2" it names the hashes of replay_comparison
--
-- Result: {"applied", record} | {"duplicate", record or nil} | {"conflict"} | {"taken-back"} | {"shape", doubles held}
--         | {"wrong-user"}. Only "applied" changes anything.
-- Cluster: all keys carry the user's hash tag, those named by the prefix too, so they are on one slot. No other key is touched.

local seal, event, digest, basis, vector = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_log, ttl_ms, token, replayed_prefix = tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]

local known = redis.call('HGET', KEYS[2], event)
if known then
  if known:sub(25) == 'x' then return {'taken-back'} end
  if known:sub(1, 16) ~= digest then return {'conflict'} end
  return {known:sub(17, 24) == token and 'applied' or 'duplicate', redis.call('GET', KEYS[1])}
end

local stored = redis.call('GET', KEYS[1])
local refused = stored and misfit(stored, seal, vector)
if refused then return refused end

local record = with(stored, seal, vector)
redis.call('SET', KEYS[1], record, 'PX', ttl_ms)
local id = redis.call('XADD', KEYS[3], '*', 'kind', 'c', 'tag', seal:sub(2), 'event', event, 'basis', basis, 'vector', vector,
  'payload', ARGV[6])
redis.call('HSET', KEYS[2], event, digest .. token .. id, '\1' .. basis, '')

local over = redis.call('XLEN', KEYS[3]) - max_log
if over > 0 then
  if over > 100 then over = 100 end -- after max_log was lowered: a bounded step per call
  local bases = redis.call('HGET', KEYS[2], '\2') or ''
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', over)) do
    redis.call('HDEL', KEYS[2], entry[2][6])
    redis.call('XDEL', KEYS[3], entry[1])
    for other in bases:gmatch('[^,]+') do redis.call('HDEL', replayed_prefix .. other, entry[2][6]) end
  end
end
redis.call('PEXPIRE', replayed_prefix .. basis, ttl_ms)
redis.call('PEXPIRE', KEYS[2], ttl_ms)
redis.call('PEXPIRE', KEYS[3], ttl_ms)
return {'applied', record}
