import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "What is 2 + 2?" }];
const slo = { "x-slo-latency-ms": "10000" };
const vote = { headers: { ...slo, "x-tts-strategy": "self-consistency", "x-tts-n": "3" } };

const answer = await client.chat.completions.create({ model: "m", messages }, vote);
assert.match(answer.choices[0].message.content, /4/);
assert.equal(answer.usage.tts.slo_status, "met");

let text = "";
const stream = await client.chat.completions.create({ model: "m", messages, stream: true }, vote);
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
assert.match(text, /4/);

const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const called = await client.chat.completions.create({ model: "m", messages, tools }, { headers: slo });
assert.equal(called.choices[0].message.tool_calls[0].function.arguments, '{"city": "Paris"}');

const schema = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };
const response_format = { type: "json_schema", json_schema: { name: "city", schema } };
const parsed = await client.chat.completions.create({ model: "m", messages, response_format }, vote);
assert.deepEqual(JSON.parse(parsed.choices[0].message.content), { name: "Paris" });

const response = await client.responses.create({ model: "m", input: "What is 2 + 2?" });
assert.match(response.output_text, /4/);
