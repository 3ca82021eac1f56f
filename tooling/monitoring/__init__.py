"""What is made of the tables of metrics and alerts: Prometheus' rules, Grafana's dashboards, the page docs/monitoring.md."""
