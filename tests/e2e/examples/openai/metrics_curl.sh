curl http://localhost:8000/v1/metrics | jq
