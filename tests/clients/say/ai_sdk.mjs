import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "paretoproxy",
  baseURL: `${process.argv[2]}/v1`,
  apiKey: "unused",
  supportsStructuredOutputs: true,
});
const model = provider("m");
const slo = { "x-slo-latency-ms": "10000" };
const headers = { ...slo, "x-tts-strategy": "self-consistency", "x-tts-n": "3" };
const common = { model, headers, maxRetries: 0, prompt: "What is 2 + 2?" };

assert.match((await generateText(common)).text, /4/);

let text = "";
for await (const part of streamText(common).textStream) text += part;
assert.match(text, /4/);

const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});
const tooled = await generateText({ ...common, headers: slo, tools: { weather }, stopWhen: stepCountIs(3) });
assert.match(tooled.text, /sunny/);

const schema = z.object({ name: z.string(), population: z.number() });
assert.deepEqual((await generateObject({ ...common, schema })).object, { name: "Paris", population: 7 });
