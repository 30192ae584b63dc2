// Calls a server with the client code that Flyte generates. Each line of stdin is a call, each line
// of stdout is its result, both as JSON. The tests bundle this file into client.mjs.
//
//   node client.mjs connect|grpc|grpc-web URL [CA [CERTIFICATE KEY]]
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { fromJson, toJson } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { IdentityService } from "@flyteorg/flyteidl2/flyteidl2/auth/identity_pb.ts";
import { ClusterService } from "@flyteorg/flyteidl2/flyteidl2/cluster/service_pb.ts";
import { SecretService } from "@flyteorg/flyteidl2/flyteidl2/secret/secret_pb.ts";
import { RunService } from "@flyteorg/flyteidl2/flyteidl2/workflow/run_service_pb.ts";

const [protocol, baseUrl, ...files] = process.argv.slice(2);
const [ca, cert, key] = files.map((file) => readFileSync(file));
const options = {
  baseUrl,
  nodeOptions: { ca, cert, key },
  sendCompression: compressionGzip,
  acceptCompression: [compressionGzip],
  compressMinBytes: 0,
};
const transport = {
  connect: () => createConnectTransport({ ...options, httpVersion: "1.1", useBinaryFormat: true }),
  grpc: () => createGrpcTransport(options),
  "grpc-web": () => createGrpcWebTransport({ ...options, httpVersion: "2" }),
}[protocol]();
const services = new Map([SecretService, IdentityService, ClusterService, RunService].map((s) => [s.typeName, s]));

async function call({ id, method, request }) {
  const [name, rpc] = method.split("/");
  const service = services.get(name);
  const { localName, input, output } = service.methods.find((m) => m.name === rpc);
  const client = createClient(service, transport);
  try {
    const answer = await client[localName](fromJson(input, request), { headers: { "x-request-id": id }, timeoutMs: 60_000 });
    return { answer: toJson(output, answer) };
  } catch (err) {
    if (!(err instanceof ConnectError)) throw err;
    // The Connect protocol writes NotFound as not_found.
    return { code: Code[err.code].replace(/(?<=[a-z])[A-Z]/g, "_$&").toLowerCase(), message: err.rawMessage };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await call(JSON.parse(line))) + "\n");
}
process.exit(0); // an open HTTP/2 connection would keep the process running
