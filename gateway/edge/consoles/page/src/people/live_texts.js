// Texts of the states that the views of requests, sessions and recordings share.

export const LIVE = {
  loading: "Loading",
  failed: "This cannot be shown now.",
  refused: "The gateway did not do this.",
  old: "The gateway does not answer. What is below may be old; this page tries again by itself.",
};
