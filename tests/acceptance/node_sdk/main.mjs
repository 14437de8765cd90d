// Creates, invokes, updates and deletes a function; prints what it saw as one JSON document.
import { readFileSync } from "node:fs";
import {
  CreateFunctionCommand,
  DeleteFunctionCommand,
  GetFunctionCommand,
  InvokeCommand,
  LambdaClient,
  UpdateFunctionConfigurationCommand,
  waitUntilFunctionActiveV2,
  waitUntilFunctionUpdatedV2,
} from "@aws-sdk/client-lambda";

const [endpoint, zip, runtime] = process.argv.slice(2);
const FunctionName = "from-node";
const client = new LambdaClient({
  endpoint,
  region: "eu-central-1",
  credentials: { accessKeyId: "000000000000", secretAccessKey: "test" },
  maxAttempts: 1,
});
const waiter = { client, maxWaitTime: 20, minDelay: 1 };
const invoke = async (event) => {
  const answer = await client.send(
    new InvokeCommand({ FunctionName, LogType: "Tail", Payload: JSON.stringify(event) }),
  );
  return {
    status: answer.StatusCode,
    error: answer.FunctionError,
    version: answer.ExecutedVersion,
    payload: JSON.parse(Buffer.from(answer.Payload).toString()),
    log: Buffer.from(answer.LogResult, "base64").toString(),
  };
};

const created = await client.send(
  new CreateFunctionCommand({
    FunctionName,
    Runtime: runtime,
    Handler: "index.handler",
    Role: "arn:aws:iam::000000000000:role/r",
    Code: { ZipFile: readFileSync(zip) },
  }),
);
await waitUntilFunctionActiveV2(waiter, { FunctionName });
const first = await invoke({ n: 1 });
const failed = await invoke({ fail: true });
await client.send(
  new UpdateFunctionConfigurationCommand({ FunctionName, Environment: { Variables: { WORD: "changed" } } }),
);
await waitUntilFunctionUpdatedV2(waiter, { FunctionName });
const updated = await invoke({ n: 2 });
await client.send(new DeleteFunctionCommand({ FunctionName }));
let gone = null;
try {
  await client.send(new GetFunctionCommand({ FunctionName }));
} catch (error) {
  gone = { name: error.name, status: error.$metadata.httpStatusCode };
}
console.log(JSON.stringify({ arn: created.FunctionArn, first, failed, updated, gone }));
