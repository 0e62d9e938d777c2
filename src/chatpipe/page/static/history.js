// Conversations, kept in this browser's local storage.

const CONVERSATIONS = "chatpipe.conversations";
const MOST = 200;

export function all() {
  try {
    const kept = JSON.parse(localStorage.getItem(CONVERSATIONS) ?? "[]");
    return Array.isArray(kept) ? kept.filter((each) => each && Array.isArray(each.turns)) : [];
  } catch {
    return [];
  }
}

// Keeps the conversation, the newest first; drops the oldest ones where there is no more room.
export function keep(conversation) {
  let kept = [conversation, ...all().filter((each) => each.id !== conversation.id)].slice(0, MOST);
  while (kept.length) {
    try {
      localStorage.setItem(CONVERSATIONS, JSON.stringify(kept));
      return;
    } catch {
      kept = kept.slice(0, -1);
    }
  }
}

export function remove(id) {
  localStorage.setItem(CONVERSATIONS, JSON.stringify(all().filter((each) => each.id !== id)));
}

export function download(conversations) {
  const text = JSON.stringify({ format: "chatpipe conversations", version: 1, conversations }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "chatpipe-conversations.json";
  link.click();
  URL.revokeObjectURL(link.href);
}
