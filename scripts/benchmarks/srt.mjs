// The proxy of sandbox-runtime by itself: node srt.mjs DIST http|https PORT UPSTREAM-PORT [AUTHORITY].
// http: its forward proxy, asked by absolute URIs. https: what it does after CONNECT with TLS that it looks into.
import { createServer } from 'node:net';
import { readFileSync } from 'node:fs';

const [dist, scheme, port, upstream, authority] = process.argv.slice(2);
const load = (name) => import(`${dist}/sandbox/${name}.js`);
const mutate = (headers) => { headers.authorization = 'Bearer bench'; return headers; };

if (scheme === 'http') {
  const { createHttpProxyServer } = await load('http-proxy');
  createHttpProxyServer({ filter: () => true, mutateHeadersPlaintext: mutate }).listen(Number(port), '127.0.0.1');
} else {
  const { createMitmCA } = await load('mitm-ca');
  const { terminateAndForward } = await load('tls-terminate-proxy');
  const ca = createMitmCA({});
  const target = {
    hostname: 'bench.example', port: Number(upstream), upstreamCA: readFileSync(authority),
    lookup: (_, options, done) => options.all ? done(null, [{ address: '127.0.0.1', family: 4 }])
      : done(null, '127.0.0.1', 4),
  };
  createServer((socket) => terminateAndForward(
    ca, undefined, mutate, undefined, socket, Buffer.alloc(0), target)).listen(Number(port), '127.0.0.1');
}
