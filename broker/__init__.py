"""What is said over MQTT, by whom, and who may say it? Topics, messages, blobs, links, brokers."""
