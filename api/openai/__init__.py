"""OpenAI's endpoints: requests, answers, streams and errors, over the same jobs as the rest."""
