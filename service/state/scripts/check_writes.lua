-- check_writes(mark; ttl_ms) -> {"ok"}
--
-- Writes as little as can be, by the way that every operation writes: what refuses those refuses this.
--
-- KEYS[1] string  {attune:check}:<process>  "", for ttl_ms                                                          written here
-- ARGV[1] ttl_ms
--
-- Result: {"ok"}. Safe to repeat.
-- Cluster: one key. It says something of the node that has its slot.

redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
return {'ok'}
