-- last_write() -> {run, status}
--
-- Says which process answers and whether it could write its file: two words of INFO, which is long. Changes nothing.
--
-- Result: the id of this run of the server; "ok", "err", "off" where it keeps no append-only file, or "untold" where it does not say, or may not
--         be asked.
-- Cluster: no key; never asked on one.

local file, server = redis.pcall('INFO', 'persistence'), redis.pcall('INFO', 'server')
if type(file) ~= 'string' or type(server) ~= 'string' then return {'', 'untold'} end
local run = server:match('run_id:(%x+)') or ''
local enabled = file:match('aof_enabled:(%d)')
if enabled == '0' then return {run, 'off'} end
return {run, enabled and file:match('aof_last_write_status:(%a+)') or 'untold'}
