-- Arguments: how many services the paths are spread over (0 = the URL's path alone). Prints one line of JSON at the end.
local requests, turn = {}, 0

function init(arguments)
   for number = 0, (tonumber(arguments[1]) or 0) - 1 do
      requests[#requests + 1] = wrk.format("GET", string.format("/service-%03d/items/%d?page=2", number, number * 7))
   end
   if #requests > 0 then
      request = function()
         turn = turn % #requests + 1
         return requests[turn]
      end
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
