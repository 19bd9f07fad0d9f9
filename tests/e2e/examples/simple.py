import requests
import time

API_KEY = "test-key-123"
BASE_URL = "http://localhost:8000"

# Submit request
response = requests.post(
    f"{BASE_URL}/generate",
    headers={"X-API-Key": API_KEY},
    json={
        "prompt": "Explain machine learning in simple terms",
        "max_tokens": 256,
        "temperature": 0.7
    }
)

task_id = response.json()["task_id"]
print(f"Task ID: {task_id}")

# Poll for result
while True:
    result = requests.get(
        f"{BASE_URL}/result/{task_id}",
        headers={"X-API-Key": API_KEY}
    ).json()
    
    if result["status"] == "completed":
        print("\nResult:", result["result"])
        print("\nMetrics:", result["metrics"])
        break
    elif result["status"] == "error":
        print("Error:", result["error_message"])
        break
    else:
        print(f"Status: {result['status']}...")
        time.sleep(2)
