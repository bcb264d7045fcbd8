"""What runs inside the platform's image beside MLflow itself."""
