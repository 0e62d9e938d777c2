// The server's endpoint: its models, and an answer piece by piece.

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function problem(response) {
  try {
    const body = await response.json();
    return body.error?.message ?? body.detail ?? response.statusText;
  } catch {
    return response.statusText || String(response.status);
  }
}

export async function models(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) throw new Error(await problem(response));
  return (await response.json()).data;
}

// Yields {text, finish, usage} until the answer ends; signal: of an AbortController.
export async function* answer(request, key, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await fetch("v1/chat/completions", {
    method: "POST", headers: headers(key), body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw new Error(await problem(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (!data || data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message ?? String(event.error));
      const choice = event.choices?.[0];
      yield { text: choice?.delta?.content ?? "", finish: choice?.finish_reason, usage: event.usage };
    }
    if (done) return;
  }
}
