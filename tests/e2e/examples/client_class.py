from client_example import LLMClient

# Initialize client
client = LLMClient(
    base_url="http://localhost:8000",
    api_key="test-key-123"
)

# Generate text (waits for result)
result = client.generate(
    prompt="Write a haiku about programming",
    max_tokens=100,
    temperature=0.8,
    wait=True
)

print(result["result"])
