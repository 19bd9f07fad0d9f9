"""OpenAI's endpoints: their requests, answers, streams and errors, over the same jobs as the rest."""
